const cards=[...document.querySelectorAll('article')],
buttons=[...document.querySelectorAll('.filters button')],
source=document.querySelector('.filters select'),words=document.querySelector('.filters input'),
count=document.querySelector('.filters output');
function show(){
const pressed=buttons.find(b=>b.getAttribute('aria-pressed')==='true'),
kind=pressed?pressed.dataset.kind:'',wanted=words.value.toLowerCase();let shown=0;
for(const card of cards){
const fits=card.dataset.kinds.split(' ').includes(kind)
&&(!source.value||card.dataset.source===source.value)
&&card.textContent.toLowerCase().includes(wanted);
card.hidden=!fits;shown+=fits;}
count.textContent=shown+' shown';}
for(const button of buttons)button.addEventListener('click',()=>{
for(const other of buttons)other.setAttribute('aria-pressed',other===button);show();});
source.addEventListener('change',show);words.addEventListener('input',show);show();
