"""What is added to the frozen model?"""
