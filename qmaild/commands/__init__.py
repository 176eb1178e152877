"""One small module per program that people run."""
