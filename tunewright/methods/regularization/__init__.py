"""What is held back?"""
