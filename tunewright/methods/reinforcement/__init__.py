"""What is rewarded, and how does the reward train?"""
