"""torch tensors on a CUDA device, or for tests on torch's CPU device. Imported only when it is asked for."""
