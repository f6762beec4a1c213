"""How do several models become one?"""
