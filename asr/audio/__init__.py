"""Audio in: files, arrays, microphones and pipes as samples at the model's rate."""
