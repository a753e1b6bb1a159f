"""Networks. They know nothing of configs, meshes, files or flags."""
