"""The demonstration's material and its telling: real data that is already on the machine."""
