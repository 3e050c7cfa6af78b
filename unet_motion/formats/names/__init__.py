"""Parameter names of others, to and from diffusers' names."""
