"""OpenAI's fine-tuning API over recipes: files, jobs with a worker process each, and what they leave."""
