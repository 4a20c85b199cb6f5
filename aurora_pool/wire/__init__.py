"""The OpenAI API's JSON and server-sent events on one side, messages on the other. Pure: bytes in, values out."""
