// Search in pages that are read from the disk: browsers start no worker there, so a hidden frame runs its script.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      addEventListener("message", event => {
        if (event.source !== inside) return
        this.dispatchEvent(new MessageEvent("message", { data: event.data }))
        this.onmessage?.(event)
      })
      inside.document.open()
      inside.document.write(`<body><script>
        self.postMessage = data => parent.postMessage(data, "*")
        self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(loaded => {
          const script = document.createElement("script")
          script.onload = loaded
          script.src = url
          document.body.append(script)
        })), Promise.resolve())
      <\/script><script src="${url}"><\/script></body>`)
      inside.document.close()
      this.ready = new Promise(done => { inside.onload = done })
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() { this.frame.remove() }
  }
}
