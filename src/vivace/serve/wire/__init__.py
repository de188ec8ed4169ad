"""Requests and responses as OpenAI's clients send and read them."""
