const images = [...document.querySelectorAll('.image')];
const dialog = document.querySelector('dialog');
let shown = 0;
function show(index) {
  shown = (index + images.length) % images.length;
  const from = images[shown].firstElementChild, to = dialog.querySelector('img');
  to.src = from.src;
  to.alt = from.alt;
  to.className = from.className;
  dialog.querySelector('p').textContent = from.alt;
  if (!dialog.open) dialog.showModal();
}
images.forEach((image, index) => image.addEventListener('click', () => show(index)));
dialog.addEventListener('click', () => dialog.close());
dialog.addEventListener('close', () => images[shown].focus());
dialog.addEventListener('keydown', event => {
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (by) { event.preventDefault(); show(shown + by); }
});
