"""Traffic: requests with their lengths, prompts and moments, from traces, conversations and generators."""
