"""What is read of a model beside its answer: hidden states, the vision tower, a calibration."""
