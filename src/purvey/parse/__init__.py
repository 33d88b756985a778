"""What must not be trusted, parsed in disposable processes: images and chat templates.

Promises that the parser's death, deadline or hunger is one refused request of whoever asked, and
that a fresh process takes the next one. Knows nothing of tensors or tokens; never imports torch.
"""
