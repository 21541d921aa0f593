"""What a prediction is worth: cameras, depth and points against the truth, and drift against the float model.

Every function takes arrays or CPU tensors, computes in float64, and returns plain floats or NumPy arrays.
"""
