"""How does the tuned model decode?"""
