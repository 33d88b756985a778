"""What an engine does with the image of a conversation: rows that its sequence begins with."""
