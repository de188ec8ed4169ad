"""Traffic sent over HTTP to any server of OpenAI's make, and what came back, measured."""
