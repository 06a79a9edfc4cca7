"""placeholder"""


def parse_randaugment(text):
    raise NotImplementedError


def randaugment(image, seed, policy):
    raise NotImplementedError
