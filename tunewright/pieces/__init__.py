"""What methods are made of, ours and third parties': every name here may be imported by a method of another package.

low_rank      LowRankMethod, the base of methods whose change is a product of two thin matrices
on_layers     OnLayers, the base of methods that hang a delta of any one form on each targeted layer
target_modules which layers a method changes, and numbers that differ by layer
heads         the classifier's head, what it reads, pooled features, a loss among some classes
prototypes    classes' mean features as a classifier by cosines (SimpleCIL)
class_gaussians  mean and covariance of classes' features, and a head that is trained on draws of them
means         means over the tokens of a row, and over the items of a row
features      hidden states at the places of targets; the distance of a student's features from a teacher's
seeded        linear layers and whole modules that start from a generator
pairs         sums, means and logs over chosen and rejected answers
beside        a frozen model with a network beside it
sublayers     where a block's attention and feed-forward part begin and end
insertion     bottlenecks behind, beside or after these parts
encoders      networks that make virtual tokens, or keys and values of them
domain_shift  how features differ between two domains

Each file imports the contract, the models and torch alone. A piece is what two methods use, or what a third would write
again.
"""
