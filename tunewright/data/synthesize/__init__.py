"""What makes the rows that are trained on?"""
