"""What transforms share: arguments, images of batches, labels on a grid, random fields."""
