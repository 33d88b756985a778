"""What an answer is made of: reasoning, content and calls, told apart as its text arrives."""
