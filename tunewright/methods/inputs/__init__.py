"""What does the model see?"""
