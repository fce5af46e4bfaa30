"""Training data: manifests, their faults, distortion of the sound, batches."""
