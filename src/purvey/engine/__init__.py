"""Inference: decisions (torch-free), tensors, the loop, and `client`, the torch-free other end."""
