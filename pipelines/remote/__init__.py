"""fal's creative-upscaler, or any app with its schema, called over the queue protocol.

`RemoteUpscaler` is the whole of it: pictures and settings in, pictures and seeds out. Below it, one module
for each thing that can go wrong: `transport` (what is sent where, with the key or without), `queue_client`
(fal's protocol), `journal` (never paying twice), `spending`, `uploads`, `results`, `credentials`,
`scrubbing`.
"""
