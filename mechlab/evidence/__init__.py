"""What models did: sampled answers, their logs, their grades, and curves from them."""
