"""The viewer: a series before and after denoising, the removed component and the noise, in a browser.

result      the files of a run, slice by slice beside those of the source
images      their pixels, decoded when they are first shown
routes      pictures and geometry over HTTP
serve       the server that `ctbasis view` runs
slices.js   panes that scroll together; the pages of `ctbasis view` and of the report share them
view.*      the page of `ctbasis view`
"""
