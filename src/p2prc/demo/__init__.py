"""The demonstration: three nodes on one machine render an animation.

It uses the product as a person does, through the command line and the running node's client.
`scene.py` and `gallery.py` are tasks: they run on the nodes and import nothing of p2prc.
"""
