"""Who may do what: API keys and their scopes. Knows nothing of HTTP; never stores a secret."""
