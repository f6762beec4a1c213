"""How does it step?"""
