"""What happens from one task to the next?"""
