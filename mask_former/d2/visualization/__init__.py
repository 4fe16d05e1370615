"""Results as pictures: regions, colours that stay, labels."""
