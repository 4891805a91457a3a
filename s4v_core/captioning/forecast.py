"""x"""


def forecast(job): ...
