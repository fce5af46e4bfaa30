"""Models on held-out speech: scores, tuned weights of language models, calibrated confidences."""
