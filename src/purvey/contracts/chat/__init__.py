"""What a conversation holds beside text: functions that may be called, and calls."""
