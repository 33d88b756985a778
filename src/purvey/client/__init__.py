"""A thin typed client for the resources that OpenAI's SDK does not know.

Promises: answers as values, errors as `PurveyError`s of the class the server meant. Knows
nothing of the server's inside; for chat, files and fine-tuning the `openai` package works too.
"""
