"""Will it fit? Compiles a stage for a TPU slice on any CPU and says what it takes."""
