"""How is the better of two answers preferred?"""
