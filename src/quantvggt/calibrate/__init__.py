"""From a float model and a calibration set to a quantized model."""
