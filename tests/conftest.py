import torch

# The networks are tiny: threads cost more than they bring, all the more beside other work.
torch.set_num_threads(1)
