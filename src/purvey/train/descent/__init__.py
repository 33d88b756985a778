"""The rules of gradient descent."""
