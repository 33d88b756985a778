"""What a run would take: followed on tensors without numbers, then tried for a moment."""
