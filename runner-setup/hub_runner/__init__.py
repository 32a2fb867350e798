"""Single-use GitHub runners on a GPU host: one TOML file, rendered, installed and supervised."""
