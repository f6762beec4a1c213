"""Methods that change the model's shape before it trains."""
