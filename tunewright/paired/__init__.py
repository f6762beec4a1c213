"""Any two models, or what an evaluation harness noted of them, on the same rows."""
