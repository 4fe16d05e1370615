"""Many pictures: from folders, lists, archives and videos to files, on one machine or several."""
