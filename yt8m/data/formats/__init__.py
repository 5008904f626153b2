"""How records store videos: an object per format. A new file needs no other edit."""
