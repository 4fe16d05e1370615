"""What the commands show with: a model that draws, files, videos, and the pictures of the page."""
