"""What does a teacher give?"""
