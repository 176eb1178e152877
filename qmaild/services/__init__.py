"""One small module per unit: build the parts, run the loop. No rule of mail lives here."""
